/* What the two classes of the module share. Everything here is Python's side; the machines know nothing of it. */
#ifndef MOORING_NATIVE_H
#define MOORING_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <structmember.h>

typedef struct {
    PyTypeObject *frame;
    PyObject *message;  /* the type of an event that names none */
    PyObject *too_long; /* the error for an element over the limit */
    Py_ssize_t default_limit;
} module_state;

extern PyType_Spec framer_spec, splitter_spec;

/* The state of the module that the type of `self` belongs to. */
module_state *native_state(PyObject *self);

/* Reads an argument `limit`; NULL: the default. False with an exception. */
bool native_limit(PyTypeObject *type, PyObject *given, size_t *limit);

/* False with an exception if a call of `feed` is at work on the machine: nothing else may touch it meanwhile. */
bool native_idle(bool busy, const char *caller);

/* Begins a call of `feed`: its list of results, with `view` open and `busy` set; NULL with an exception. */
PyObject *native_begin_feed(PyObject *data, Py_buffer *view, bool *busy);

/* Appends, taking the reference; an item that is NULL is an exception already raised. */
bool native_append(PyObject *list, PyObject *item);

/* For types whose instances refer to nothing that could refer back to them. */
int native_traverse(PyObject *self, visitproc visit, void *arg);
void native_release(PyObject *self);

#endif
