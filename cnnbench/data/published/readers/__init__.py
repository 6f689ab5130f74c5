"""Readers of the published files of datasets, a module per dataset."""
