"""The push of a student to the Hub: one commit, refused where it would overwrite or publish what nobody asked for."""

from hf_distill.report.hub.push import push_folder

__all__ = ["push_folder"]
