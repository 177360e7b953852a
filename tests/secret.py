"""What nobody may see: a password, a key of a bucket, the way of a webhook."""

SECRETS = (
    "a-pa55word-that-nobody-may-see",
    "a-key-of-the-bucket-that-nobody-may-see",
    "a-hook-that-nobody-may-see",
)


def secret_environment(database_url: str) -> dict[str, str]:
    """Environment variables that hold all of them; the first is in the URL."""
    return {
        "BGM_DATABASE_URL": database_url,
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": SECRETS[1],
        "BGM_NIGHT__WEBHOOK_URL": f"http://127.0.0.1:1/{SECRETS[2]}",
    }


def secrets_in(written: str | bytes) -> list[str]:
    """Those that are in what was written."""
    text = written if isinstance(written, str) else written.decode("latin-1")
    return [secret for secret in SECRETS if secret in text]
