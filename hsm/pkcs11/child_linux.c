/* The fast way of a module's process. A signature is received, made and sent
 * here, on one thread and without Go's scheduler, whose threads would wake each
 * other several times for it: two context switches are what is left. All other
 * questions, and signatures of an unusual form, are left to Go.
 *
 * The form of the messages is in wire.go. What is read here comes from the same
 * program; its lengths are checked all the same.
 */
#include "child_linux.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long ck;

/* CK_MECHANISM and CK_FUNCTION_LIST of PKCS #11 v2.40, Sections 3.4 and 3.6. */
typedef struct {
	ck type;
	void *parameter;
	ck length;
} mechanism;
typedef struct {
	unsigned char version[2];
	void *function[68];
} list;
typedef ck (*sign_init)(ck session, mechanism *m, ck key);
typedef ck (*sign)(ck session, unsigned char *data, ck n, unsigned char *sig, ck *size);

enum { VERSION = 1, ANSWER = 0xff, SIGN_INIT = 42, SIGN = 43, HEAD = 36, LONGEST = 4096 };

static list *functions;
static int waiting; /* threads that wait for a question */

void hallmark_waiting(int n) { __atomic_add_fetch(&waiting, n, __ATOMIC_SEQ_CST); }

/* hallmark_functions takes the functions of a loaded module from the binding,
 * which does not show them: a second C_GetFunctionList would give those of
 * another instance with some modules, p11-kit's client for one. The handle of
 * the library tells whether the binding is laid out as we think; if it is not,
 * the slow way is left. */
int hallmark_functions(const char *path, const void *binding)
{
	const struct {
		void *handle;
		list *functions;
	} *b = binding;
	void *lib = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
	if (!lib || !b || b->handle != lib || !b->functions)
		return 0;
	__atomic_store_n(&functions, b->functions, __ATOMIC_SEQ_CST);
	return 1;
}

static uint64_t u64(const unsigned char *p)
{
	uint64_t v = 0;
	for (int i = 7; i >= 0; i--)
		v = v << 8 | p[i];
	return v;
}

static uint32_t u32(const unsigned char *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24; }

/* octets moves p over an octet string that ends before end, 0 if there is none. */
static unsigned char *octets(unsigned char **p, unsigned char *end, uint32_t *n)
{
	if (!*p || end - *p < 4)
		return *p = 0;
	*n = u32(*p);
	if (*n > (size_t)(end - *p) - 4)
		return *p = 0;
	unsigned char *v = *p + 4;
	*p = v + *n;
	return v;
}

/* answer makes a signature and gives the length of the answer in out; 0 if the
 * question is not for here. */
static size_t answer(unsigned char *in, size_t n, unsigned char *out)
{
	list *f = __atomic_load_n(&functions, __ATOMIC_SEQ_CST);
	/* With a login in the middle (c) it is not for here. */
	if (!f || n < HEAD || in[0] != VERSION || in[1] != HALLMARK_SIGN || u64(in + 20))
		return 0;
	uint32_t np, nd, ns;
	unsigned char *p = in + HEAD, *end = in + n;
	unsigned char *param = octets(&p, end, &np), *data = octets(&p, end, &nd);
	if (!octets(&p, end, &ns) || ns || end - p != 4 || u32(p))
		return 0;

	ck session = u64(in + 4), size = LONGEST;
	mechanism m = { u64(in + 28), np ? param : 0, np };
	ck code = ((sign_init)f->function[SIGN_INIT])(session, &m, u64(in + 12));
	if (!code)
		code = ((sign)f->function[SIGN])(session, data, nd, out + 20, &size);
	if (!code && size > LONGEST)
		code = 5; /* CKR_GENERAL_ERROR */
	memset(out, 0, 16);
	out[0] = VERSION, out[1] = ANSWER, out[2] = in[2], out[3] = in[3];
	for (int i = 0; i < 8; i++)
		out[4 + i] = (uint64_t)code >> 8 * i;
	/* No numbers, and one octet string if there is a signature. */
	if (code)
		return 16;
	out[14] = 1;
	for (int i = 0; i < 4; i++)
		out[16 + i] = (uint32_t)size >> 8 * i;
	return 20 + size;
}

/* hallmark_serve answers signatures until there is another question, and gives
 * its length; 0 or less when the other side is gone. have is the length of a
 * question that is in already. Where the caller would be the last one to wait
 * for questions, it gets HALLMARK_LAST added and has the time to start another. */
long hallmark_serve(int fd, unsigned char *in, size_t size, long have)
{
	unsigned char out[20 + LONGEST];
	for (;;) {
		if (!have) {
			do
				have = read(fd, in, size);
			while (have < 0 && errno == EINTR);
			if (have <= 0)
				return have;
			if (!__atomic_sub_fetch(&waiting, 1, __ATOMIC_SEQ_CST))
				return have + HALLMARK_LAST;
		}
		size_t n = answer(in, (size_t)have, out);
		if (!n)
			return have;
		__atomic_add_fetch(&waiting, 1, __ATOMIC_SEQ_CST);
		if (write(fd, out, n) < 0)
			return -1;
		have = 0;
	}
}
