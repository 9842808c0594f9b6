"""Whole collections of pictures, captioned to the end: nothing is lost, nothing done twice."""
