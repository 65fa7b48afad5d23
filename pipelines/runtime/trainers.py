"""Trainers as programs of their own."""
