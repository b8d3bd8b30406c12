"""Sound and images in rows: where their files are, how they are read, what is wrong with them.

May be imported: ``read_audio``, ``read_image``, the cells of ``cells`` and ``as_cells``, the checks and digests.
Never belongs here: anything that needs a model or a processor.
"""
