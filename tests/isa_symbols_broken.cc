// What isa_symbols.sh must refuse: beside its record, this unit defines an inline function that others could define
// too.
namespace bitnet::builtin {

inline int shared_inline(int x) { return x + 1; }

struct Family {
  int (*function)(int);
};
extern const Family kAvx2Family;
constinit const Family kAvx2Family = {shared_inline};

}  // namespace bitnet::builtin
