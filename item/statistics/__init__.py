"""Metrics, calibration, drift, prevalence."""
