"""Ray Serve applications: the critic and the generator over HTTP."""
