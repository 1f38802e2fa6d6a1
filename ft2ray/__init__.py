"""ft2ray: align audio-driven portrait generators with human preferences, on Ray."""

__version__ = "0.1.0"
