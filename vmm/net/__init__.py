"""Networks: what a guest's network card is connected to on the host."""
