"""The REST API under /api/v1. Views translate between HTTP and the verbs; they decide nothing."""
