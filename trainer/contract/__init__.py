"""What the platform and every trainer agree on: variables, messages, exit codes, models by task.

Nothing here loads Django, torch or ultralytics, so both sides import the very same definitions.
"""
