"""Requests: one class for each documented model, and ``MarketRequest`` for all other models."""

from kie_async.requests.base import Request
from kie_async.requests.market import MarketRequest
from kie_async.requests.wan import Wan22TurboImageToVideo

__all__ = ["MarketRequest", "Request", "Wan22TurboImageToVideo"]
