"""Keys for S3, from where the AWS command line has them: for both libraries that read a table."""

from __future__ import annotations

import os

from ledger.errors import DataUnavailable, PluginUnavailable
from ledger_delta.place import MEND


def storage_options() -> dict[str, str]:
    """Options for deltalake; they hold a key: never to be printed or recorded.

    The library's own search is no help: where it finds no key it asks an address that only machines of Amazon have.
    """
    try:
        from botocore.exceptions import BotoCoreError
        from botocore.session import get_session
    except ModuleNotFoundError as error:
        raise PluginUnavailable(f"S3 cannot be read: {error.name} is not installed", mend=MEND) from error

    session = get_session()
    try:
        found = session.get_credentials()
        keys = found.get_frozen_credentials() if found else None
    except BotoCoreError as error:
        raise DataUnavailable(
            f"the keys for S3 cannot be had ({type(error).__name__})",
            mend="check them with `aws sts get-caller-identity`",
        ) from None
    if keys is None:
        raise DataUnavailable(
            "no keys for S3 were found", mend="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run `aws configure`"
        )
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    options = {
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "AWS_SESSION_TOKEN": keys.token,
        "AWS_REGION": session.get_config_variable("region") or "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true" if (endpoint or "").startswith("http:") else None,
    }
    return {name: value for name, value in options.items() if value}
