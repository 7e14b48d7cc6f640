/* The Python face of `sse.c` and `array.c`: arguments in, objects out, nothing decided here.
 *
 * Everything belongs to one module object (multi-phase initialisation, no static state). The interpreter's lock
 * is held throughout. Making an object may still run foreign code, through the garbage collector, and that code
 * may call the very machine that is at work: such a call is refused with RuntimeError.
 */
#include "_native.h"

/* -- what both classes need */

module_state *native_state(PyObject *self)
{
    return PyType_GetModuleState(Py_TYPE(self));
}

bool native_limit(PyTypeObject *type, PyObject *given, size_t *limit)
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

bool native_idle(bool busy, const char *caller)
{
    if (busy)
        PyErr_Format(PyExc_RuntimeError, "%s was called while feed was at work", caller);
    return !busy;
}

PyObject *native_begin_feed(PyObject *data, Py_buffer *view, bool *busy)
{
    if (PyObject_GetBuffer(data, view, PyBUF_SIMPLE) < 0)
        return NULL;
    if (!native_idle(*busy, "feed")) {
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

bool native_append(PyObject *list, PyObject *item)
{
    if (item == NULL)
        return false;
    int failed = PyList_Append(list, item);
    Py_DECREF(item);
    return failed == 0;
}

void native_release(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

int native_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

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

/* Frame, ElementTooLong and DEFAULT_LIMIT come from Python, so that there is one of each. */
static int read_shared(module_state *state)
{
    PyObject *shared = PyImport_ImportModule("mooring.cext.frame");
    if (shared == NULL)
        return -1;
    PyObject *frame = PyObject_GetAttrString(shared, "Frame");
    state->frame = (PyTypeObject *)frame; /* the module owns it from here on, whatever it is */
    PyObject *limit = frame ? PyObject_GetAttrString(shared, "DEFAULT_LIMIT") : NULL;
    if (limit != NULL) {
        state->default_limit = PyLong_AsSsize_t(limit);
        Py_DECREF(limit);
    }
    if (!PyErr_Occurred())
        state->too_long = PyObject_GetAttrString(shared, "ElementTooLong");
    Py_DECREF(shared);
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
    Py_VISIT(state->too_long);
    return 0;
}

static int module_clear(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->frame);
    Py_CLEAR(state->message);
    Py_CLEAR(state->too_long);
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
