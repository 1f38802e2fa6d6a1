"""Ray Serve applications: the critic and the generator over HTTP."""

from ft2ray.extras import extra

with extra("serve"):
    import fastapi  # noqa: F401
    import python_multipart  # noqa: F401
    import starlette  # noqa: F401
