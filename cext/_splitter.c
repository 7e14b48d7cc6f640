/* The class ArraySplitter: `array.c` for Python, with the words for its mistakes. */
#include "_native.h"
#include "array.h"

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
        return PyErr_Format(native_state((PyObject *)self)->too_long,
                            "%U: an element is longer than %zu bytes at byte %llu", self->subject, core->limit, at);
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
        !read_key(key, &bytes, &length) || !native_limit(type, limit_given, &limit))
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
    native_release((PyObject *)self);
}

static bool on_element(void *elements, const char *bytes, size_t length)
{
    return native_append(elements, PyBytes_FromStringAndSize(bytes, (Py_ssize_t)length));
}

static PyObject *splitter_feed(splitter_object *self, PyObject *data)
{
    Py_buffer view;
    PyObject *elements = native_begin_feed(data, &view, &self->busy);
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
    if (!native_idle(self->busy, "close"))
        return NULL;
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
    {Py_tp_traverse, native_traverse},
    {Py_tp_methods, splitter_methods},
    {0, NULL},
};

PyType_Spec splitter_spec = {
    .name = "mooring.cext._native.ArraySplitter",
    .basicsize = sizeof(splitter_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = splitter_slots,
};
