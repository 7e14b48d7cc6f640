/* The Python face of `sse.c` and `array.c`: arguments in, objects out, nothing decided here.
 *
 * Everything belongs to one module object (multi-phase initialisation, no static state). The interpreter's lock
 * is held throughout. Making an object may still run foreign code, through the garbage collector, and that code
 * may call the very machine that is at work: such a call is refused with RuntimeError.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "array.h"
#include "sse.h"

enum { REMEMBERED = 8, LONGEST_REMEMBERED = 64 };

typedef struct {
    PyTypeObject *frame;
    PyObject *message; /* the type of an event that names none */
    Py_ssize_t default_limit;
} module_state;

static module_state *state_of(PyObject *self)
{
    return PyType_GetModuleState(Py_TYPE(self));
}

/* -- what both classes need */

/* `given` may be NULL: the default. */
static bool read_limit(PyTypeObject *type, PyObject *given, size_t *limit)
{
    Py_ssize_t value = ((module_state *)PyType_GetModuleState(type))->default_limit;
    if (given != NULL) {
        PyObject *number = PyNumber_Index(given);
        if (number == NULL)
            return false;
        value = PyLong_AsSsize_t(number);
        Py_DECREF(number);
        if (value == -1 && PyErr_Occurred()) /* it does not fit: below, that is refused like any other */
            PyErr_Clear();
    }
    if (value < 1) {
        PyErr_SetString(PyExc_ValueError, "limit must be at least one byte and fit into memory");
        return false;
    }
    *limit = (size_t)value;
    return true;
}

/* Begins a call of `feed`: its list of results, with `view` open; NULL with an exception. */
static PyObject *begin_feed(PyObject *data, Py_buffer *view, bool *busy)
{
    if (PyObject_GetBuffer(data, view, PyBUF_SIMPLE) < 0)
        return NULL;
    if (*busy) {
        PyErr_SetString(PyExc_RuntimeError, "feed was called while it was at work");
        PyBuffer_Release(view);
        return NULL;
    }
    *busy = true;
    PyObject *results = PyList_New(0);
    if (results == NULL) {
        *busy = false;
        PyBuffer_Release(view);
    }
    return results;
}

static bool append(PyObject *list, PyObject *item)
{
    if (item == NULL)
        return false;
    int failed = PyList_Append(list, item);
    Py_DECREF(item);
    return failed == 0;
}

static void release(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static int traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

/* -- Framer */

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
        !read_limit(type, limit_given, &limit))
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
    release((PyObject *)self);
}

/* A new reference to the string of a type that nobody listed. */
static PyObject *type_string(framer_object *self, sse_text type)
{
    for (size_t i = 0; i < REMEMBERED && self->remembered[i] != NULL; i++) {
        Py_ssize_t length;
        const char *bytes = PyUnicode_AsUTF8AndSize(self->remembered[i], &length);
        if (bytes != NULL && (size_t)length == type.length && memcmp(bytes, type.bytes, type.length) == 0)
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
    PyObject *data = PyBytes_FromStringAndSize(event->data.bytes, (Py_ssize_t)event->data.length);
    return append(call->frames, make_frame(call->state, type, data));
}

static PyObject *framer_feed(framer_object *self, PyObject *data)
{
    Py_buffer view;
    PyObject *frames = begin_feed(data, &view, &self->busy);
    if (frames == NULL)
        return NULL;
    framing call = {self, state_of((PyObject *)self), frames};
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
    {Py_tp_traverse, traverse},
    {Py_tp_methods, framer_methods},
    {Py_tp_members, framer_members},
    {Py_tp_getset, framer_getters},
    {0, NULL},
};

static PyType_Spec framer_spec = {
    .name = "mooring.cext._native.Framer",
    .basicsize = sizeof(framer_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = framer_slots,
};

/* -- ArraySplitter */

typedef struct {
    PyObject_HEAD
    array_splitter core;
    PyObject *subject; /* how a message begins */
    bool busy;
} splitter_object;

/* Indexed by array_mistake; the twin in Python says the same. */
static const char *const MISTAKES[] = {
    [ARRAY_DOCUMENT_NOT_ARRAY] = "it is not an array",
    [ARRAY_DOCUMENT_NOT_OBJECT] = "the document is not an object",
    [ARRAY_NAME_MISSING] = "a member's name is missing",
    [ARRAY_COLON_MISSING] = "a colon is missing",
    [ARRAY_VALUE_MISSING] = "a value is missing",
    [ARRAY_COMMA_MISSING] = "a comma is missing",
    [ARRAY_VALUE_NOT_ARRAY] = "it is not an array",
    [ARRAY_SECOND] = "there is a second one",
    [ARRAY_EMPTY_ELEMENT] = "an element is empty",
    [ARRAY_BRACKET_MISMATCH] = "a bracket does not match",
    [ARRAY_TRAILING] = "something follows the document",
    [ARRAY_CUT_OFF] = "the document is cut off",
    [ARRAY_NO_SUCH_MEMBER] = "there is no such member",
};

/* Raises what went wrong; always NULL. */
static PyObject *raise_mistake(splitter_object *self)
{
    const array_splitter *core = &self->core;
    unsigned long long at = core->mistake_offset;
    if (core->mistake == ARRAY_NO_MEMORY)
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    if (core->mistake == ARRAY_TOO_DEEP)
        return PyErr_Format(PyExc_ValueError, "%U: brackets are nested deeper than %d at byte %llu", self->subject,
                            ARRAY_MAX_DEPTH, at);
    if (core->mistake == ARRAY_ELEMENT_TOO_LONG)
        return PyErr_Format(PyExc_ValueError, "%U: an element is longer than %zu bytes at byte %llu", self->subject,
                            core->limit, at);
    return PyErr_Format(PyExc_ValueError, "%U: %s at byte %llu", self->subject, MISTAKES[core->mistake], at);
}

/* The key's bytes (owned by `key`), NULL for None. False with an exception. */
static bool read_key(PyObject *key, const char **bytes, Py_ssize_t *length)
{
    *bytes = NULL;
    *length = 0;
    if (key == Py_None)
        return true;
    if (!PyUnicode_Check(key)) {
        PyErr_SetString(PyExc_TypeError, "key must be a string or None");
        return false;
    }
    *bytes = PyUnicode_AsUTF8AndSize(key, length);
    if (*bytes == NULL)
        return false;
    for (Py_ssize_t i = 0; i < *length; i++) {
        unsigned char byte = (unsigned char)(*bytes)[i];
        if (byte < 0x20 || byte == '"' || byte == '\\') {
            PyErr_SetString(PyExc_ValueError, "key must not need an escape in JSON");
            return false;
        }
    }
    return true;
}

static PyObject *splitter_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"key", "limit", NULL};
    PyObject *key, *limit_given = NULL;
    const char *bytes;
    Py_ssize_t length;
    size_t limit;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:ArraySplitter", names, &key, &limit_given) ||
        !read_key(key, &bytes, &length) || !read_limit(type, limit_given, &limit))
        return NULL;
    splitter_object *self = (splitter_object *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    bool ready = array_init(&self->core, bytes, (size_t)length, limit) || PyErr_NoMemory() != NULL;
    if (ready) {
        self->subject = bytes ? PyUnicode_FromFormat("JSON array \"%U\"", key) : PyUnicode_FromString("JSON array");
        ready = self->subject != NULL;
    }
    if (!ready) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void splitter_dealloc(splitter_object *self)
{
    PyObject_GC_UnTrack(self);
    array_free(&self->core);
    Py_CLEAR(self->subject);
    release((PyObject *)self);
}

static bool on_element(void *elements, const char *bytes, size_t length)
{
    return append(elements, PyBytes_FromStringAndSize(bytes, (Py_ssize_t)length));
}

static PyObject *splitter_feed(splitter_object *self, PyObject *data)
{
    Py_buffer view;
    PyObject *elements = begin_feed(data, &view, &self->busy);
    if (elements == NULL)
        return NULL;
    array_mistake mistake = array_feed(&self->core, view.buf, (size_t)view.len, on_element, elements);
    self->busy = false;
    PyBuffer_Release(&view);
    /* Elements that were complete before the mistake leave first; the next call raises. */
    if (mistake == ARRAY_FINE || (mistake != ARRAY_NO_MEMORY && PyList_GET_SIZE(elements) > 0))
        return elements;
    Py_DECREF(elements);
    return raise_mistake(self);
}

static PyObject *splitter_close(splitter_object *self, PyObject *Py_UNUSED(ignored))
{
    if (array_close(&self->core) != ARRAY_FINE)
        return raise_mistake(self);
    Py_RETURN_NONE;
}

static PyObject *splitter_sizeof(splitter_object *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromSize_t(sizeof *self + self->core.key_length + self->core.element.capacity);
}

static PyMethodDef splitter_methods[] = {
    {"feed", (PyCFunction)splitter_feed, METH_O,
     "feed($self, data, /)\n--\n\n"
     "Take the next piece and return the elements it completed, each without the white space around it."},
    {"close", (PyCFunction)splitter_close, METH_NOARGS,
     "close($self, /)\n--\n\n"
     "Say that the document has ended. Raises ValueError if it was not whole or had no such array."},
    {"__sizeof__", (PyCFunction)splitter_sizeof, METH_NOARGS, "Bytes held, the buffer included."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot splitter_slots[] = {
    {Py_tp_doc, "ArraySplitter(key, limit=DEFAULT_LIMIT)\n--\n\nCuts the elements of one array out of one document."},
    {Py_tp_new, splitter_new},
    {Py_tp_dealloc, splitter_dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_methods, splitter_methods},
    {0, NULL},
};

static PyType_Spec splitter_spec = {
    .name = "mooring.cext._native.ArraySplitter",
    .basicsize = sizeof(splitter_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = splitter_slots,
};

/* -- the module */

static int add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type == NULL)
        return -1;
    int failed = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return failed;
}

/* Frame and DEFAULT_LIMIT come from Python, so that there is one of each. */
static int read_shared(module_state *state)
{
    PyObject *shared = PyImport_ImportModule("mooring.cext.frame");
    if (shared == NULL)
        return -1;
    PyObject *frame = PyObject_GetAttrString(shared, "Frame");
    PyObject *limit = PyObject_GetAttrString(shared, "DEFAULT_LIMIT");
    Py_DECREF(shared);
    if (limit != NULL)
        state->default_limit = PyLong_AsSsize_t(limit);
    Py_XDECREF(limit);
    state->frame = (PyTypeObject *)frame; /* the module owns it from here on, whatever it is */
    if (PyErr_Occurred())
        return -1;
    if (!PyType_Check(frame) || !PyType_IsSubtype(state->frame, &PyTuple_Type) ||
        state->frame->tp_basicsize != PyTuple_Type.tp_basicsize) {
        PyErr_SetString(PyExc_ImportError, "mooring.cext.frame.Frame is not a plain named tuple");
        return -1;
    }
    return 0;
}

static int module_exec(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    state->message = PyUnicode_InternFromString("message");
    if (state->message == NULL || read_shared(state) < 0 || add_type(module, &framer_spec) < 0)
        return -1;
    return add_type(module, &splitter_spec);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *state = PyModule_GetState(module);
    Py_VISIT(state->frame);
    Py_VISIT(state->message);
    return 0;
}

static int module_clear(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->frame);
    Py_CLEAR(state->message);
    return 0;
}

static void module_free(void *module)
{
    module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "mooring.cext._native",
    .m_doc = "The framer and the splitter in C; mooring.cext chooses between them and their twins.",
    .m_size = sizeof(module_state),
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&module_definition);
}
