/* Executes oneDNN primitives on the buffers of an XLA custom call.

   Python describes them once (primitives.py); from then on, no call needs the interpreter's lock. */

#include <stdatomic.h>
#include <stdint.h>

#include "handler.h"

enum { MOST_OPERANDS = 4, MOST_CALLS = 2, MOST_BUFFERS = 4 };
enum { OUT_OF_MEMORY = 1 }; /* a dnnl_status_t */

/* Functions of dnnl.h, version 3, and of OpenMP. */
typedef struct {
  int32_t argument;
  void *memory;
} Argument;

typedef struct {
  int (*memory_create)(void **memory, const void *layout, void *engine, void *data);
  int (*memory_destroy)(void *memory);
  int (*stream_create)(void **stream, void *engine, unsigned flags);
  int (*execute)(const void *primitive, void *stream, int count, const Argument *arguments);
  void (*set_threads)(int count); /* NULL if oneDNN has no threads */
  void *engine;
} Library;

typedef struct {
  int32_t argument;
  int32_t buffer; /* inputs first, then outputs */
  int64_t offset; /* bytes */
  const void *layout;
} Operand;

typedef struct {
  const void *primitive;
  int64_t num_operands;
  Operand operands[MOST_OPERANDS];
} Call;

typedef struct Operation {
  int64_t key;
  int64_t threads;
  int64_t num_calls;
  Call calls[MOST_CALLS];
  struct Operation *next;
} Operation;

static Library library;
static _Atomic(Operation *) operations;
static _Thread_local void *stream;

void start(const Library *functions) { library = *functions; }

/* Adds an operation, which must stay in memory. The caller makes sure that no other thread adds one
   at the same time. */
void add(Operation *operation) {
  operation->next = atomic_load(&operations);
  atomic_store(&operations, operation);
}

static int run(const Call *call, void *const *buffers) {
  Argument arguments[MOST_OPERANDS];
  int status = 0, count = 0;
  for (; count < call->num_operands && !status; ++count) {
    const Operand *operand = &call->operands[count];
    void *data = (char *)buffers[operand->buffer] + operand->offset;
    arguments[count].argument = operand->argument;
    status = library.memory_create(&arguments[count].memory, operand->layout, library.engine, data);
    if (status) break;
  }
  if (!status) status = library.execute(call->primitive, stream, count, arguments);
  while (count--) library.memory_destroy(arguments[count].memory);
  return status;
}

static XLA_FFI_Error *failed(const XLA_FFI_CallFrame *frame, int status, const char *message) {
  XLA_FFI_Error_Code code = status == OUT_OF_MEMORY ? XLA_FFI_Error_Code_RESOURCE_EXHAUSTED
                                                    : XLA_FFI_Error_Code_INTERNAL;
  XLA_FFI_Error_Create_Args arguments = {XLA_FFI_Error_Create_Args_STRUCT_SIZE, NULL, message, code};
  return frame->api->XLA_FFI_Error_Create(&arguments);
}

XLA_FFI_Error *handle(XLA_FFI_CallFrame *frame) {
  if (!executes(frame)) return NULL;
  int64_t key = *(const int64_t *)((const XLA_FFI_Scalar *)frame->attrs.attrs[0])->value;
  const Operation *operation = atomic_load(&operations);
  while (operation && operation->key != key) operation = operation->next;
  if (!operation) return failed(frame, 0, "oneDNN: the operation is unknown in this process");
  void *buffers[MOST_BUFFERS];
  int count = 0;
  for (int64_t i = 0; i < frame->args.size; ++i)
    buffers[count++] = data(frame->args.args[i]);
  for (int64_t i = 0; i < frame->rets.size; ++i)
    buffers[count++] = data(frame->rets.rets[i]);
  if (library.set_threads) library.set_threads((int)operation->threads);
  int status = stream ? 0 : library.stream_create(&stream, library.engine, 1);
  for (int64_t i = 0; i < operation->num_calls && !status; ++i)
    status = run(&operation->calls[i], buffers);
  return status ? failed(frame, status, "oneDNN: a primitive failed") : NULL;
}
