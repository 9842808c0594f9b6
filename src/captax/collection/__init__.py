"""Whole collections captioned: a job that can be stopped and resumed, and what it writes."""
