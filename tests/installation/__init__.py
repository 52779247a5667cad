"""PAM comes into a project, is brought up to date, and leaves without a trace; and all of it on PostgreSQL 17 too."""
