"""The application of the recipes. Its client takes every setting from the environment."""

from flask import Flask, request

import rudderpipe

client = rudderpipe.Client()
app = Flask(__name__)


@app.post("/orders/<number>")
def order(number: str) -> dict[str, bool]:
    accepted = client.track(request.args["user"], "Order Completed", {"order": number})
    return {"accepted": accepted}


@app.get("/healthz")
def healthz() -> str:
    return "ok"
