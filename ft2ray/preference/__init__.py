"""From scores to preference pairs: rules on one prompt group, deterministic draws, Parquet export."""
