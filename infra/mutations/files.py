"""Mutations of the workspace: its verbs and quotas, where its bytes lie, and what Git is given."""

from infra.mutations.mutation import Edit, Mutation, targets

_NEVER = "if false then"
_STRANGER = "if mine is null then"
_FILES = ("tests/database/test_files.py",)
_TOOLS = ("tests/tools/test_files.py", "tests/tools/test_file_versions.py")
_BLOBS = ("tests/kernel/test_blobs.py",)
_GIT = ("tests/database/test_files.py", "-k", "pulled_again")
_CLI = ("tests/cli/test_workspace.py",)
_ATTACKS, _PUSHED = ("tests/attacks/test_paths.py",), ("tests/attacks/test_repositories.py",)
_ALIKE = ("tests/database/test_organizations.py", "-k", "answer_alike")
_OTHERS = (*_TOOLS, "-k", "another_organisations")

# function, what is taken away, its text, what takes its place, who notices
_FUNCTIONS = (
    ("pam_private.write_file", "size", "if size > space.max_file_bytes then", _NEVER, _FILES),
    (
        "pam_private.write_file",
        "quota of files",
        "if file.id is null and space.files >= space.max_files then",
        _NEVER,
        _FILES,
    ),
    ("pam_private.write_file", "quota of bytes", "if space.kept_bytes + size > space.max_bytes then", _NEVER, _FILES),
    ("pam_private.write_file", "one after another", "where w.org_id = org for update", "where w.org_id = org", _FILES),
    ("pam_private.write_file", "bytes are counted", "kept_bytes = w.kept_bytes + size", "kept_bytes = 0", _FILES),
    ("pam_private.write_file", "stored history goes", "set content = null", "set content = v.content", _FILES),
    ("pam_private.path_fault", "PAM's own paths", "'^\\.[pP][aA][mM](/|$)'", "'^never$'", _FILES),
    ("pam_private.path_fault", "in any case", "'^\\.[pP][aA][mM](/|$)'", "'^\\.pam(/|$)'", _FILES),
    ("pam.write_files", "membership", _STRANGER, _NEVER, _FILES),
    ("pam.write_files", "role", "if mine < 'developer' then", _NEVER, _FILES),
    ("pam.write_files", "how many", "not between 1 and 500 then", "is null then", _FILES),
    ("pam.read_workspace", "membership", _STRANGER, _NEVER, _FILES),
    ("pam.record_checkout", "membership", _STRANGER, _NEVER, _ALIKE),
    ("pam.record_checkout", "its time", "since < clock_timestamp() - interval '1 day'", "false", _GIT),
    (
        "pam_worker.list_files",
        "organisation",
        "where f.org_id = run.org_id and starts_with",
        "where starts_with",
        _OTHERS,
    ),
    (
        "pam_worker.search_files",
        "organisation",
        "where f.org_id = run.org_id and f.is_text",
        "where f.is_text",
        _OTHERS,
    ),
    (
        "pam_worker.read_file",
        "organisation",
        "where f.org_id = run.org_id and f.path",
        "where f.path",
        _OTHERS,
    ),
    (
        "pam_worker.list_unstored",
        "handed to one",
        " and (v.handed_at is null or v.handed_at < clock_timestamp() - interval '1 minute')",
        "",
        _FILES,
    ),
    ("pam_worker.mark_stored", "digest", "and v.sha256 = mark_stored.sha256 ", "", _FILES),
    ("pam_worker.mark_stored", "organisation", "where v.org_id = mark_stored.org_id and", "where", _ATTACKS),
    (
        "pam_worker.mark_stored",
        "the newest stays",
        "case when pam_private.is_kept_in_row(v.size_bytes, v.version = f.version) then v.content end",
        "null",
        _FILES,
    ),
)
TARGETS = targets("files", _FUNCTIONS)

_PLACES, _S3 = "workers/kernel/blobs.py", "workers/kernel/s3_blobs.py"
_WRITE, _READ = "workers/tools/file_write.py", "workers/tools/file_read.py"
_REPOSITORY, _PUSH = "infra/cli/repository.py", "infra/cli/workspace_push.py"
_PULL = "infra/cli/workspace_pull.py"
# file, what is taken away, its text, what takes its place, who notices
_SOURCES = (
    (_PLACES, "a digest is one", "if not _DIGEST.fullmatch(sha256):", "if False:", _BLOBS),
    (_PLACES, "bytes fit their digest", "if hashlib.sha256(content).hexdigest() != sha256:", "if False:", _BLOBS),
    (_PLACES, "own place", 'return f"org/{UUID(str(org_id))}/{sha256}"', 'return f"org/{sha256}"', _BLOBS),
    (_PLACES, "links are not read", "os.O_RDONLY | os.O_NOFOLLOW", "os.O_RDONLY", _BLOBS),
    (_PLACES, "links are no folders", "if place.is_symlink():", "if False:", _BLOBS),
    (_PLACES, "its owner's alone", "os.O_CLOEXEC, 0o600)", "os.O_CLOEXEC, 0o644)", _BLOBS),
    (_PLACES, "bound to its place", 'return {"org": str(org_id), "sha256": sha256}', 'return {"org": "any"}', _BLOBS),
    (_S3, "encrypted without a key", '{"ServerSideEncryption": "AES256"}', "{}", _BLOBS),
    (_S3, "never overwritten", '"IfNoneMatch": "*", ', "", _BLOBS),
    (_S3, "arrival is checked", ', "ChecksumSHA256": digest}', "}", _BLOBS),
    (_S3, "what is there is checked", "                await self.get(org_id, sha256)", "                pass", _BLOBS),
    (_S3, "what comes is checked", 'checked, sha256, answer["Body"]', 'bytes, answer["Body"]', _BLOBS),
    (_WRITE, "the version read", "if args.version is not None and args.version != expected:", "if False:", _TOOLS),
    (
        _WRITE,
        "no overwriting unseen",
        "if expected and args.content is not None and args.version is None:",
        "if False:",
        _TOOLS,
    ),
    (_WRITE, "origin of a diff", 'origin=f"file {path}" if before else None,', "origin=None,", _TOOLS),
    (_WRITE, "exactly once", "if found != 1:", "if found == 0:", _TOOLS),
    (_WRITE, "binary is not edited", "if is_edit and not file.is_text:", "if False:", _TOOLS),
    (_READ, "origin of text", '{part}", origin=f"file {path}")', '{part}")', _TOOLS),
    ("workers/tools/file_list.py", "origin of lines", 'origin=f"lines of files', 'cost_usd=0 and f"', _TOOLS),
    (
        "workers/tools/workspace_path.py",
        "PAM's own paths",
        'if re.match(r"\\.pam(/|\\Z)", path, re.IGNORECASE | re.ASCII):',
        "if False:",
        _FILES,
    ),
    (_REPOSITORY, "no credentials", 'if "@" in parts.netloc:', "if False:", _CLI),
    (_REPOSITORY, "https", 'if parts.scheme != "https" and not', "if False and not", _CLI),
    (_REPOSITORY, "git's own folder", "if any(not check(part.encode())", "if any(False", _PUSHED),
    (
        _REPOSITORY,
        "names of branches",
        "or not check_ref_format(Ref(_HEADS + name.encode()))",
        "",
        _PUSHED,
    ),
    (_PULL, "links", "why = LEFT_OUT.get(file.mode) or", "why =", _CLI),
    (
        _PULL,
        "paths",
        '"no paths for a workspace" if workspace_path.fault(path) or path_fault(path)',
        '"" if False',
        _CLI,
    ),
    (_PULL, "changed here", "if pulled.conflicts and not overwrite:", "if False:", _CLI),
    (_PULL, "room", "if size > room or new > places:", "if False:", _CLI),
    (_PULL, "room, while it is read", "            _check_room(size, new, workspace)\n", "", _CLI),
    (_PUSH, "base moved", "        if moved:", "        if False:", _CLI),
    (_PUSH, "another's branch", "if self._repository.holds(there,", "if True or self._repository.holds(there,", _CLI),
    (_PUSH, "only what was changed", "return there.updated_at > since", "return True", _CLI),
    (_PUSH, "what can be read", "if there.size_bytes > MAX_READ_BYTES:", "if False:", _CLI),
    (_PUSH, "shapes", "path_fault(path) or self._shape_fault(path, wanted)", "path_fault(path)", _PUSHED),
    (_PUSH, "written meanwhile", "if sha256_of(content) != known.sha256:", "if False:", _PUSHED),
    ("infra/cli/review.py", "words are quoted", 'f"> {line[:MAX_LINE]}"', "line[:MAX_LINE]", _CLI),
)
MUTATIONS = (
    *(target.mutation() for target in TARGETS),
    *(
        Mutation(f"files: {file.rpartition('/')[2]}, {what}", Edit(file, old, new), tests)
        for file, what, old, new, tests in _SOURCES
    ),
)
