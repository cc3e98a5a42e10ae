// Where the layers and blobs of a .caffemodel lie: the compiled twin of caffe_bridge/weights/caffemodel.py's walk.
//
// It answers for files that are in order and gives up on anything else (a broken field, a blob in several pieces,
// NVCaffe's raw_data, more than the tables hold), for which the plain walk has the rules and the error messages. No
// byte is read that has not been found to lie inside its message.
#include <cstdint>

#if defined(_WIN32)
#define CB_EXPORT extern "C" __declspec(dllexport)
#else
#define CB_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace {

enum Wire { kVarint, kFixed64, kBytes, kStartGroup, kEndGroup, kFixed32 };

constexpr int64_t kMaxName = 1 << 16;
constexpr int kMaxAxes = 32;
constexpr int kMaxGroupDepth = 100;

// Field numbers of one generation of layer messages; `nested` holds a layer of the generation before, 0 for none.
struct Generation {
  int64_t number;  // of the field that holds such a layer
  int64_t name, type, blobs, nested;
};
constexpr Generation kLayer{100, 1, 2, 7, 0}, kV1{2, 4, 5, 6, 1}, kV0{1, 1, 2, 50, 0};

struct Span {
  int64_t first, end;
};

struct Field {
  int64_t number, first, end;
  int wire;
};

// The rows the caller reads; see NativeTables in caffe_bridge/weights/native_index.py.
struct LayerRow {
  int64_t number, name_first, name_end, type_first, type_end, blobs_end;
};
struct BlobRow {
  int64_t legacy, first, count, stride, size, dims_end;
};
struct Tables {
  LayerRow* layers;
  BlobRow* blobs;
  int64_t* dims;
  int64_t max_layers, max_blobs, max_dims;
  int64_t layer_count, blob_count, dim_count;
  int64_t name_first, name_end;
};

int fixed_size(int wire) {
  return wire == kFixed32 ? 4 : wire == kFixed64 ? 8 : 0;
}

class Walker {
 public:
  Walker(const uint8_t* data, Tables& tables) : data_(data), tables_(tables) {}

  bool net(Span message) {
    Field field{};
    for (int64_t at = message.first; at < message.end; at = field.end) {
      if (!next(at, message.end, field)) return false;
      if (field.wire != kBytes) continue;
      if (field.number == 1) {
        if (!name(field, tables_.name_first, tables_.name_end)) return false;
      } else if (field.number == kLayer.number || field.number == kV1.number) {
        if (!layer({field.first, field.end}, field.number == kLayer.number ? kLayer : kV1)) return false;
      }
    }
    return true;
  }

 private:
  bool layer(Span message, const Generation& kind) {
    if (tables_.layer_count == tables_.max_layers) return false;
    const int64_t index = tables_.layer_count++;
    LayerRow row{kind.number, 0, 0, 0, 0, 0};
    bool nested = false;
    const int64_t blobs_before = tables_.blob_count;
    Field field{};
    for (int64_t at = message.first; at < message.end; at = field.end) {
      if (!next(at, message.end, field)) return false;
      if (field.number == kind.name && field.wire == kBytes) {
        if (!name(field, row.name_first, row.name_end)) return false;
      } else if (field.number == kind.type) {
        if (!type(field, kind, row)) return false;
      } else if (field.number == kind.blobs && field.wire == kBytes) {
        if (nested || !blob({field.first, field.end})) return false;
      } else if (kind.nested && field.number == kind.nested && field.wire == kBytes) {
        // Blobs are numbered through the file: those of a layer must follow one another.
        if (nested || tables_.blob_count != blobs_before) return false;
        nested = true;
        if (!layer({field.first, field.end}, kV0)) return false;
      }
    }
    row.blobs_end = nested ? blobs_before : tables_.blob_count;
    tables_.layers[index] = row;
    return true;
  }

  // The type is a name, but for V1 a number, which is given in type_first with -1 in type_end.
  bool type(const Field& field, const Generation& kind, LayerRow& row) {
    const bool number = kind.number == kV1.number;
    if (field.wire != (number ? kVarint : kBytes)) return false;
    if (!number) return name(field, row.type_first, row.type_end);
    uint64_t value = 0;
    int64_t at = field.first;
    if (!varint(at, field.end, value)) return false;
    row.type_first = static_cast<int64_t>(value);
    row.type_end = -1;
    return true;
  }

  bool name(const Field& field, int64_t& first, int64_t& end) {
    first = field.first;
    end = field.end;
    return end - first <= kMaxName;
  }

  bool blob(Span message) {
    int64_t legacy[4] = {0, 0, 0, 0};
    int64_t dims[kMaxAxes];
    int axes = 0;
    bool is_legacy = false;
    BlobRow values[2] = {};  // of `data` and of `double_data`
    Field field{};
    for (int64_t at = message.first; at < message.end; at = field.end) {
      if (!next(at, message.end, field)) return false;
      if ((field.number == 5 || field.number == 8) && field.wire != kVarint) {
        BlobRow& row = values[field.number == 8];
        if (row.size || !span(field, field.number == 8 ? 8 : 4, row)) return false;
      } else if (field.number >= 1 && field.number <= 4 && field.wire == kVarint) {
        uint64_t value = 0;
        int64_t position = field.first;
        if (!varint(position, field.end, value)) return false;
        legacy[field.number - 1] = static_cast<int64_t>(value);
        is_legacy = true;
      } else if (field.number == 7 && field.wire == kBytes) {
        if (!shape({field.first, field.end}, dims, axes)) return false;
      } else if (field.number == 10 || field.number == 12) {
        return false;
      }
    }
    const int count = is_legacy ? 4 : axes;
    if (tables_.blob_count == tables_.max_blobs || tables_.max_dims - tables_.dim_count < count) return false;
    BlobRow row = values[values[1].count > 0];
    row.legacy = is_legacy;
    for (int i = 0; i < count; ++i) tables_.dims[tables_.dim_count++] = is_legacy ? legacy[i] : dims[i];
    row.dims_end = tables_.dim_count;
    tables_.blobs[tables_.blob_count++] = row;
    return true;
  }

  bool span(const Field& field, int size, BlobRow& row) {
    const int64_t length = field.end - field.first;
    if (field.wire == kBytes) {
      if (length % size) return false;
      row = {0, field.first, length / size, size, size, 0};
      return true;
    }
    if (fixed_size(field.wire) != size) return false;
    row = {0, field.first, (length + 1) / (size + 1), size + 1, size, 0};
    return true;
  }

  bool shape(Span message, int64_t* dims, int& axes) {
    Field field{};
    for (int64_t at = message.first; at < message.end; at = field.end) {
      if (!next(at, message.end, field)) return false;
      if (field.number != 1 || (field.wire != kVarint && field.wire != kBytes)) continue;
      for (int64_t position = field.first; position < field.end;) {
        uint64_t value = 0;
        if (axes == kMaxAxes || !varint(position, field.end, value)) return false;
        dims[axes++] = static_cast<int64_t>(value);
      }
    }
    return true;
  }

  // The field at `at`; fixed-width fields of one number that follow one another are one field, as in wire.py.
  bool next(int64_t at, int64_t end, Field& field) {
    const int64_t start = at;
    uint64_t length = 0;
    if (!tag(at, end, field)) return false;
    field.first = at;
    switch (field.wire) {
      case kVarint:
        if (!varint(at, end, length)) return false;
        break;
      case kBytes:
        if (!varint(at, end, length) || length > static_cast<uint64_t>(end - at)) return false;
        field.first = at;
        at += static_cast<int64_t>(length);
        break;
      case kStartGroup:
        if (!skip_group(at, end, field.number)) return false;
        break;
      case kEndGroup:
        return false;
      default: {
        const int64_t stride = fixed_size(field.wire) + (at - start);
        at = start + stride;
        if (field.first - start == 1) {
          while (at < end && data_[at] == data_[start]) at += stride;
        }
        if (at > end) return false;
      }
    }
    field.end = at;
    return true;
  }

  bool tag(int64_t& at, int64_t end, Field& field) {
    uint64_t value = 0;
    if (!varint(at, end, value)) return false;
    field.wire = static_cast<int>(value & 7);
    field.number = static_cast<int64_t>(value >> 3);
    return field.number > 0 && field.number < (int64_t{1} << 29) && field.wire <= kFixed32;
  }

  bool skip_group(int64_t& at, int64_t end, int64_t number) {
    int64_t open[kMaxGroupDepth];
    int depth = 0;
    open[depth++] = number;
    while (depth > 0) {
      Field field{};
      uint64_t length = 0;
      if (!tag(at, end, field)) return false;
      if (field.wire == kStartGroup) {
        if (depth == kMaxGroupDepth) return false;
        open[depth++] = field.number;
      } else if (field.wire == kEndGroup) {
        if (open[--depth] != field.number) return false;
      } else if (field.wire == kFixed32 || field.wire == kFixed64) {
        at += fixed_size(field.wire);
      } else {
        if (!varint(at, end, length)) return false;
        if (field.wire == kBytes) {
          if (length > static_cast<uint64_t>(end - at)) return false;
          at += static_cast<int64_t>(length);
        }
      }
      if (at > end) return false;
    }
    return true;
  }

  bool varint(int64_t& at, int64_t end, uint64_t& value) const {
    value = 0;
    for (int shift = 0; shift < 70 && at < end; shift += 7) {
      const uint8_t byte = data_[at++];
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }

  const uint8_t* data_;
  Tables& tables_;
};

}  // namespace

// Fills the tables for the `size` bytes of a file. 1: they hold all of it; 0: ask the plain walk.
CB_EXPORT int caffe_bridge_index_caffemodel(const uint8_t* data, int64_t size, Tables* tables) {
  return Walker(data, *tables).net({0, size});
}
