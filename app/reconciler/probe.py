"""Is the runtime of an attached run usable?"""

import httpx
from pydantic import ValidationError

from workers.contract.sandbox_api import RuntimeHealth
from workers.contract.version import CONTRACT_VERSION

_DEADLINE_S = 5.0


def http_probe(url: str) -> str:
    """What is wrong with the runtime server at `url`; an empty text if nothing is."""
    try:
        answer = httpx.get(f"{url.rstrip('/')}/health", timeout=_DEADLINE_S, trust_env=False)
        answer.raise_for_status()
        health = RuntimeHealth.model_validate_json(answer.content)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"the runtime at {url} does not answer: {error}"
    except ValidationError:
        return f"what answers at {url} is not a Skydeck runtime of this version"
    if health.contract_version != CONTRACT_VERSION:
        return f"the runtime at {url} speaks contract version {health.contract_version}"
    return "" if health.ready else f"the runtime at {url} is not ready: {health.reason}"
