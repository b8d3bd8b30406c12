"""Tasks whose rows hold a picture or a sound, which the collator decodes and prepares, batch by batch.

May be imported: the tasks, and ``media_rows`` by tasks of speech.
Never belongs here: how files are found and decoded, which is ``hf_distill.data.media``'s.
"""
