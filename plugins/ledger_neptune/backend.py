"""Neptune's own client of a server, held to that server. Imported on first use, for it imports the client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bravado.client import SwaggerClient
from bravado.config import bravado_config_from_config_dict
from bravado.requests_client import RequestsClient
from bravado.swagger_model import Loader
from bravado_core.spec import Spec
from neptune.common.exceptions import NeptuneInvalidApiTokenException
from neptune.common.oauth import NeptuneAuthenticator
from neptune.exceptions import NeptuneMissingApiTokenException
from neptune.internal.backends.api_model import ClientConfig, OptionalFeatures
from neptune.internal.backends.hosted_client import (
    BACKEND_SWAGGER_PATH,
    LEADERBOARD_SWAGGER_PATH,
)
from neptune.internal.backends.hosted_neptune_backend import HostedNeptuneBackend
from neptune.internal.backends.swagger_client_wrapper import SwaggerClientWrapper
from neptune.internal.backends.utils import (
    MissingApiClient,
    NeptuneResponseAdapter,
    build_operation_url,
    ssl_verify,
    uuid_format,
    verify_client_version,
)
from neptune.internal.credentials import Credentials
from neptune.version import version
from requests.adapters import HTTPAdapter

from ledger.errors import InvalidSettings, Unavailable
from ledger_neptune.place import KEY, origin

if TYPE_CHECKING:
    import requests

_AS_THE_CLIENT_READS_IT: Final = {
    "bravado": bravado_config_from_config_dict({}),
    "validate_swagger_spec": False,
    "validate_requests": False,
    "validate_responses": False,
    "formats": [uuid_format],
}
_PATIENCE_S: Final = 30.0
"""For an answer; the client itself waits without end for some, and ten minutes for others."""


class Backend(HostedNeptuneBackend):
    """The client's own, but whatever it sends goes to one server and waits for its answer in bounded time."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self.credentials = _credentials_for(endpoint)
        self.proxies = None
        self.missing_features: list[str] = []
        api = self._described(endpoint, BACKEND_SWAGGER_PATH, self._client())
        self._client_config = ClientConfig.from_api_response(
            api.api.getClientConfig(X_Neptune_Api_Token=self.credentials.api_token, alpha="true").response().result
        )
        verify_client_version(self._client_config, version)
        self._http_client = self._client()
        self._http_client.authenticator = self._login(api)
        server = self._client_config.api_url
        self.backend_client = self._described(server, BACKEND_SWAGGER_PATH, self._http_client)
        self.leaderboard_client = self._described(server, LEADERBOARD_SWAGGER_PATH, self._http_client)
        self.artifacts_client = MissingApiClient(OptionalFeatures.ARTIFACTS)
        self.sys_name_set_by_backend = self._client_config.sys_name_set_by_backend

    def _client(self) -> RequestsClient:
        verify = ssl_verify()
        client = RequestsClient(ssl_verify=verify, response_adapter_class=NeptuneResponseAdapter)
        client.session.headers["User-Agent"] = f"neptune-client/{version} (training-ledger)"
        self._hold(client.session)
        return client

    def _described(self, server: str, path: str, client: RequestsClient) -> SwaggerClientWrapper:
        url = build_operation_url(server, path)
        described = Spec(Loader(client).load_spec(url), url, client, dict(_AS_THE_CLIENT_READS_IT))
        # bravado would also follow every schema that some library of this process has registered with jsonschema, and
        # fetch what those refer to from the servers of whoever wrote them.
        described.resolver.store.clear()
        described.resolver.store[url] = described.spec_dict
        described.build()
        return SwaggerClientWrapper(SwaggerClient(described))

    def _login(self, api: SwaggerClientWrapper) -> NeptuneAuthenticator:
        key, verify = self.credentials.api_token, self._http_client.ssl_verify
        authenticator = NeptuneAuthenticator(key, api, verify, None)
        auth = authenticator.auth
        made = auth.session_factory
        auth.session_factory = lambda: self._hold(made())
        self._hold(auth.session)
        return authenticator

    def _hold(self, session: requests.Session) -> requests.Session:
        for scheme in ("https://", "http://"):
            session.mount(scheme, _OneServer(self._endpoint))
        return session


class _OneServer(HTTPAdapter):
    """Sends to one server only: an answer may name others, and a redirection would take the key along."""

    def __init__(self, endpoint: str) -> None:
        super().__init__()
        self._endpoint = endpoint

    def send(self, request: requests.PreparedRequest, *args: Any, **named: Any) -> requests.Response:
        other = origin(request.url or "")
        if other != self._endpoint:
            raise Unavailable(
                f"Neptune at {self._endpoint} names another server, {other}, for a part of its work: nothing was sent "
                "there",
                mend="have whoever runs the server mend the address under which it knows itself, or set "
                "[plugin.neptune] endpoint to that one",
            )
        return super().send(request, *args, **(named | {"timeout": _PATIENCE_S}))


def _credentials_for(endpoint: str) -> Credentials:
    """The user's key, if it is one for this server. Raises ``InvalidSettings``."""
    try:
        found = Credentials.from_token()
        server = origin(found.api_url_opt or found.token_origin_address)
    except NeptuneMissingApiTokenException:
        raise InvalidSettings(
            f"{KEY} is not set: Neptune at {endpoint} takes nothing without a key",
            mend=f"take one from your user menu at {endpoint} and set {KEY} to it",
        ) from None
    except (NeptuneInvalidApiTokenException, TypeError):  # the client does not check of what shape the JSON is
        server = None
    if server is None:
        raise InvalidSettings(
            f"what {KEY} is set to is no key of Neptune's",
            mend=f"take one from your user menu at {endpoint}, whole: it is text of base64",
        )
    if server != endpoint:
        raise InvalidSettings(
            f"the key in {KEY} is for {server}, and [plugin.neptune] endpoint is {endpoint}: it was not sent there",
            mend=f"take a key from your user menu at {endpoint}, or set endpoint to the server of the key",
        )
    return found
