"""Smaller models: fewer numbers a row, fewer bits a number, dense layers of low rank."""
