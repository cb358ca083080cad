"""A REST client: python rest_client.py http://HOST:PORT… It waits for the model, asks, and prints what it got."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from typing import Any
from urllib.error import HTTPError

MODEL = "/v1/models/half_plus_two"


def ask(url: str, body: object | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=10) as answer:
        return json.loads(answer.read())


def wait_for_model(server: str) -> None:
    for _ in range(100):
        try:
            if ask(server + MODEL)["model_version_status"][0]["state"] == "AVAILABLE":
                return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit("the model did not come")


def use(server: str) -> None:
    wait_for_model(server)
    print("rows", ask(server + MODEL + ":predict", {"instances": [1.0, 2.0, 5.0]})["predictions"])
    print("columns", ask(server + MODEL + "/versions/123:predict", {"inputs": {"x": [[1.0], [2.0]]}})["outputs"])
    examples = {"signature_name": "regress_x_to_y", "examples": [{"x": 2.0}]}
    print("regress", ask(server + MODEL + ":regress", examples)["results"])
    signatures = ask(server + MODEL + "/metadata")["metadata"]["signature_def"]["signature_def"]
    print("signature", signatures["serving_default"]["inputs"]["x"]["dtype"])
    try:
        ask(server + MODEL.replace("two", "nine") + ":predict", {"instances": [1.0]})
    except HTTPError as error:
        print("unknown", error.code)


if __name__ == "__main__":
    for server in sys.argv[1:]:
        use(server)
