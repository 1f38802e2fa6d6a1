"""What a run will cost, worked out before anything is started: nothing here needs a GPU, weights or Ray."""
