"""Training of a recipe, with resume; and what several machines need for it."""
