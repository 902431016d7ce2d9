"""The Script Management API under /v1/scripting, as SmartSuite publishes it, and Millrace's extensions of it."""

PREFIX = "/v1/scripting"
