"""One thread for every test of this folder: two of them spin against each other on small networks."""

import cv2
import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
