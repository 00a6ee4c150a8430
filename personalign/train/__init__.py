"""What is made once per base model: a basis (``basis/``), a reward model (``reward/``), an expert (``expert/``)."""
