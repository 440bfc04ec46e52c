"""The contestants; ``contestant.MODULES`` lists them."""
