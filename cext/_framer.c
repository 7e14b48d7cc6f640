/* The class Framer: `sse.c` for Python. An event that is not wanted makes no object at all. */
#include "_native.h"
#include "sse.h"

enum { REMEMBERED = 8, LONGEST_REMEMBERED = 64 };

typedef struct {
    PyObject_HEAD
    sse_framer core;
    PyObject *wanted;                 /* a tuple of str, in the order the core knows them by; or NULL */
    PyObject *remembered[REMEMBERED]; /* types met before, so that their strings are shared; may be NULL */
    size_t next_remembered;
    bool busy;
} framer_object;

/* A tuple of exact, interned strings. */
static PyObject *read_names(PyObject *given)
{
    if (PyUnicode_Check(given)) { /* also a collection of strings, and never what was meant */
        PyErr_SetString(PyExc_TypeError, "wanted must be a collection of event types, not one string");
        return NULL;
    }
    PyObject *names = PySequence_List(given);
    if (names == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(names); i++) {
        if (!PyUnicode_Check(PyList_GET_ITEM(names, i))) {
            PyErr_SetString(PyExc_TypeError, "wanted must hold strings only");
            Py_DECREF(names);
            return NULL;
        }
        PyObject *name = PyUnicode_FromObject(PyList_GET_ITEM(names, i));
        if (name == NULL) {
            Py_DECREF(names);
            return NULL;
        }
        PyUnicode_InternInPlace(&name);
        PyList_SetItem(names, i, name);
    }
    PyObject *tuple = PyList_AsTuple(names);
    Py_DECREF(names);
    return tuple;
}

static bool init_core(framer_object *self, size_t limit)
{
    if (self->wanted == NULL)
        return sse_init(&self->core, limit, NULL, 0) || PyErr_NoMemory() != NULL;
    size_t count = (size_t)PyTuple_GET_SIZE(self->wanted);
    sse_text *texts = PyMem_Calloc(count + 1, sizeof *texts);
    if (texts == NULL)
        return PyErr_NoMemory() != NULL;
    bool read = true;
    for (size_t i = 0; read && i < count; i++) {
        Py_ssize_t length;
        texts[i].bytes = PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(self->wanted, (Py_ssize_t)i), &length);
        read = texts[i].bytes != NULL;
        texts[i].length = read ? (size_t)length : 0;
    }
    if (read && !sse_init(&self->core, limit, texts, count))
        read = PyErr_NoMemory() != NULL;
    PyMem_Free(texts);
    return read;
}

static PyObject *framer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limit", "wanted", NULL};
    PyObject *limit_given = NULL, *wanted = Py_None;
    size_t limit;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:Framer", names, &limit_given, &wanted) ||
        !native_limit(type, limit_given, &limit))
        return NULL;
    framer_object *self = (framer_object *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    if (wanted != Py_None)
        self->wanted = read_names(wanted);
    if ((wanted != Py_None && self->wanted == NULL) || !init_core(self, limit)) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void framer_dealloc(framer_object *self)
{
    PyObject_GC_UnTrack(self);
    sse_free(&self->core);
    Py_CLEAR(self->wanted);
    for (size_t i = 0; i < REMEMBERED; i++)
        Py_CLEAR(self->remembered[i]);
    native_release((PyObject *)self);
}

/* A new reference to the string of a type that nobody listed; NULL with an exception. */
static PyObject *type_string(framer_object *self, sse_text type)
{
    for (size_t i = 0; i < REMEMBERED && self->remembered[i] != NULL; i++) {
        Py_ssize_t length;
        const char *bytes = PyUnicode_AsUTF8AndSize(self->remembered[i], &length);
        if (bytes == NULL)
            return NULL;
        if ((size_t)length == type.length && memcmp(bytes, type.bytes, type.length) == 0)
            return Py_NewRef(self->remembered[i]);
    }
    PyObject *string = PyUnicode_DecodeUTF8(type.bytes, (Py_ssize_t)type.length, "replace");
    if (string != NULL && type.length <= LONGEST_REMEMBERED) {
        Py_XSETREF(self->remembered[self->next_remembered], Py_NewRef(string));
        self->next_remembered = (self->next_remembered + 1) % REMEMBERED;
    }
    return string;
}

/* A Frame is a tuple that knows its members' names, so it is filled like one. */
static PyObject *make_frame(module_state *state, PyObject *type, PyObject *data)
{
    PyObject *frame = type && data ? state->frame->tp_alloc(state->frame, 2) : NULL;
    if (frame == NULL) {
        Py_XDECREF(type);
        Py_XDECREF(data);
        return NULL;
    }
    PyTuple_SET_ITEM(frame, 0, type);
    PyTuple_SET_ITEM(frame, 1, data);
    return frame;
}

typedef struct {
    framer_object *self;
    module_state *state;
    PyObject *frames;
} framing;

static bool on_event(void *context, const sse_event *event)
{
    framing *call = context;
    PyObject *type;
    if (event->type.length == 0)
        type = Py_NewRef(call->state->message);
    else if (event->listed != SSE_NOT_LISTED)
        type = Py_NewRef(PyTuple_GET_ITEM(call->self->wanted, (Py_ssize_t)event->listed));
    else
        type = type_string(call->self, event->type);
    PyObject *data = type == NULL ? NULL : PyBytes_FromStringAndSize(event->data.bytes, (Py_ssize_t)event->data.length);
    return native_append(call->frames, make_frame(call->state, type, data));
}

static PyObject *framer_feed(framer_object *self, PyObject *data)
{
    Py_buffer view;
    PyObject *frames = native_begin_feed(data, &view, &self->busy);
    if (frames == NULL)
        return NULL;
    framing call = {self, native_state((PyObject *)self), frames};
    bool read = sse_feed(&self->core, view.buf, (size_t)view.len, on_event, &call);
    self->busy = false;
    PyBuffer_Release(&view);
    if (!read) {
        Py_DECREF(frames);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    return frames;
}

static PyObject *framer_id(framer_object *self, void *Py_UNUSED(closure))
{
    return PyUnicode_DecodeUTF8(self->core.id.bytes, (Py_ssize_t)self->core.id.length, "replace");
}

static PyObject *framer_retry(framer_object *self, void *Py_UNUSED(closure))
{
    if (self->core.retry_ms < 0)
        Py_RETURN_NONE;
    return PyLong_FromLongLong(self->core.retry_ms);
}

static PyObject *framer_sizeof(framer_object *self, PyObject *Py_UNUSED(ignored))
{
    const sse_framer *core = &self->core;
    return PyLong_FromSize_t(sizeof *self + core->id.capacity + core->type_buffer.capacity +
                             core->data_buffer.capacity + core->line.capacity);
}

static PyMethodDef framer_methods[] = {
    {"feed", (PyCFunction)framer_feed, METH_O,
     "feed($self, data, /)\n--\n\n"
     "Take the next piece of the stream and return the events it completed, in order."},
    {"__sizeof__", (PyCFunction)framer_sizeof, METH_NOARGS, "Bytes held, the buffers included."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef framer_members[] = {
    {"limit", T_PYSSIZET, offsetof(framer_object, core.limit), READONLY, "The most bytes one event may take."},
    {"skipped", T_ULONGLONG, offsetof(framer_object, core.skipped), READONLY, "Events over the limit."},
    {"unwanted", T_ULONGLONG, offsetof(framer_object, core.unwanted), READONLY,
     "Complete events whose type is not in `wanted`."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef framer_getters[] = {
    {"last_event_id", (getter)framer_id, NULL, "The last event id, or an empty string.", NULL},
    {"retry_ms", (getter)framer_retry, NULL, "The delay the sender asked for last, in milliseconds, or None.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot framer_slots[] = {
    {Py_tp_doc, "Framer(limit=DEFAULT_LIMIT, wanted=None)\n--\n\nCuts a byte stream into events."},
    {Py_tp_new, framer_new},
    {Py_tp_dealloc, framer_dealloc},
    {Py_tp_traverse, native_traverse},
    {Py_tp_methods, framer_methods},
    {Py_tp_members, framer_members},
    {Py_tp_getset, framer_getters},
    {0, NULL},
};

PyType_Spec framer_spec = {
    .name = "mooring.cext._native.Framer",
    .basicsize = sizeof(framer_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = framer_slots,
};
