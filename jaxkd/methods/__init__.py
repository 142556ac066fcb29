"""Methods by name: each a function that makes the objective of a paper for two networks, with the paper's defaults.

``at(student, teacher)`` looks at the networks' ``roles`` to choose what it matches, and so works for any model that
names them; for others name taps. A learner trains it::

    objective = methods.at(student, teacher, soft=1.0)  # attention transfer beside KD
    learners.distill(student, teacher, objective, optimizer)

Methods of the families "phases" and "together" are more than an objective: ``ban(student, training=...)`` gives the
``Stage``s that ``training.run`` goes through, see ``Training``; some complete an ``Ensemble``.

What the parameters of most methods are:

  * ``weight``: of the method's own loss. Weights and temperatures are numbers, schedules of the step, or traced arrays;
  * ``hard``: of the cross-entropy with the labels, the term ``"hard"``;
  * ``soft``, ``temperature``: of soft labels, the term ``"soft"``. Where the method's own loss has a temperature and
    nothing else is said, it is this one;
  * ``student_taps``, ``teacher_taps``: the inner features, from first to last, where they are not to be those of the
    roles: one name, or several;
  * ``steps_per_epoch``, ``n_data`` and the like: facts of the training, see ``FROM_TRAINING``.

A term that counts nothing by its default is not there. The method's own has its name, or, if it is of several,
``"name/part"``.
"""

from jaxkd.methods._assistants import dgkd, takd
from jaxkd.methods._classifier import cat_kd, ofa, sdd, simkd, srrl
from jaxkd.methods._feature import fitnets, ft, mgd, nd, semckd, srd, vid, vkd
from jaxkd.methods._generations import ban
from jaxkd.methods._maps import at, ickd, kdsvd, nst, ofd, reviewkd
from jaxkd.methods._method import FROM_TRAINING, Method, create, find, methods, parse
from jaxkd.methods._own import byot, cskd, pskd, tfkd
from jaxkd.methods._relation import cc, crd, pkt, rkd, sp
from jaxkd.methods._response import ctkd, deit_hard, dist, dkd, kd, lskd, mlkd, nkd, patient, ttm, wsld
from jaxkd.methods._teachers import progressive, several
from jaxkd.methods._together import dml, ema, kdcl, one, online
from jaxkd.methods._training import Ensemble, Stage, Training
from jaxkd.methods._two_phases import ab, fitnets_staged, fsp, ft_staged

__all__ = [
    "FROM_TRAINING",
    "Ensemble",
    "Method",
    "Stage",
    "Training",
    "ab",
    "at",
    "ban",
    "byot",
    "cat_kd",
    "cc",
    "crd",
    "create",
    "cskd",
    "ctkd",
    "deit_hard",
    "dgkd",
    "dist",
    "dkd",
    "dml",
    "ema",
    "find",
    "fitnets",
    "fitnets_staged",
    "fsp",
    "ft",
    "ft_staged",
    "ickd",
    "kd",
    "kdcl",
    "kdsvd",
    "lskd",
    "methods",
    "mgd",
    "mlkd",
    "nd",
    "nkd",
    "nst",
    "ofa",
    "ofd",
    "one",
    "online",
    "parse",
    "patient",
    "pkt",
    "progressive",
    "pskd",
    "reviewkd",
    "rkd",
    "sdd",
    "semckd",
    "several",
    "simkd",
    "sp",
    "srd",
    "srrl",
    "takd",
    "tfkd",
    "ttm",
    "vid",
    "vkd",
    "wsld",
]
