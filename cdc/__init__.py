"""Salesforce change events, landed once, in order, in Azure Blob Storage."""
