"""How a trained model is made smaller."""
