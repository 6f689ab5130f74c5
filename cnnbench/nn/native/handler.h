/* What handlers of XLA custom calls have in common. */

#include "xla/ffi/api/c_api.h"

/* True if a call computes something. XLA also calls a handler to ask for its version. */
static int executes(XLA_FFI_CallFrame *frame) {
  XLA_FFI_Extension_Base *extension = frame->extension_start;
  if (extension && extension->type == XLA_FFI_Extension_Metadata) {
    XLA_FFI_Metadata *metadata = ((XLA_FFI_Metadata_Extension *)extension)->metadata;
    metadata->api_version.major_version = XLA_FFI_API_MAJOR;
    metadata->api_version.minor_version = XLA_FFI_API_MINOR;
    return 0;
  }
  return frame->stage == XLA_FFI_ExecutionStage_EXECUTE;
}

static void *data(void *buffer) { return ((XLA_FFI_Buffer *)buffer)->data; }
