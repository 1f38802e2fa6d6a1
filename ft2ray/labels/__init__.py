"""What people say of clips: answers, what to ask next, how far people agree, tables to tune a critic on."""
