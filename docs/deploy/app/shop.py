"""The application of the recipes. Its client takes every setting from the environment."""

import rudderpipe
from flask import Flask, request

client = rudderpipe.Client()
app = Flask(__name__)


@app.post("/orders/<number>")
def order(number):
    accepted = client.track(request.args["user"], "Order Completed", {"order": number})
    return {"accepted": accepted}


@app.get("/healthz")
def healthz():
    return "ok"
