"""Mean and covariance of data of any size."""

from .accumulation import Result as Result, Tally as Tally, take_statistics as take_statistics
