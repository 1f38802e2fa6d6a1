"""The page in the browser: thin, a module for each tab; all that it does is a function below it."""

from ft2ray.extras import extra

with extra("ui"):
    import gradio  # noqa: F401
