"""What tasks share that know the labels of their rows by name.

May be imported: the classes that tasks derive from, and ``label_sets`` by tasks.
Never belongs here: a task that recipes name.
"""
