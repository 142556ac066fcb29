"""Weights into the zoo's models, and students out: read, load, save."""

from jaxkd.models.pretrained._files import read
from jaxkd.models.pretrained._from_teacher import init_from_teacher
from jaxkd.models.pretrained._load import convert, load
from jaxkd.models.pretrained._students import Student, load_student, save

__all__ = ["Student", "convert", "init_from_teacher", "load", "load_student", "read", "save"]
