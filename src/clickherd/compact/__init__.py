"""What a smaller model consists of: short rows and what decodes them, few bits a number, dense layers of low rank."""
