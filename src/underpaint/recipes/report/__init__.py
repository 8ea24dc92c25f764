"""A network's sampling held against the closed-form theory."""

from .build import Report as Report, report as report
