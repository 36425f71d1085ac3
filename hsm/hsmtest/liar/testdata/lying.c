/* A PKCS#11 library that lies: another one, whose C_Sign does what a broken or
 * hostile token may do.
 *
 * cc -shared -fPIC -DREAL='"/usr/lib/softhsm/libsofthsm2.so"' -DSAW='"/tmp/saw"' -DMODE='"/tmp/mode"' -o lying.so lying.c -ldl
 *
 * Every octet string that it is asked to sign gets a line in SAW, in
 * hexadecimal, before anything is signed. The first letter of MODE says what it
 * does then:
 *
 *   n  signs
 *   l  signs, and answers late
 *   h  signs, and does not answer
 *   e  signs, and reports an error of the device
 *   s  signs with another key
 *   f  signs, and flips a bit
 *   r  one of these by turns
 */
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long CK_ULONG;
typedef struct { CK_ULONG type; void *value; CK_ULONG len; } attribute;

/* CK_FUNCTION_LIST of PKCS #11 v2.40: a version, then 68 functions in the order
 * of the standard. */
enum { FIND_INIT = 26, FIND = 27, FIND_FINAL = 28, SIGN_INIT = 42, SIGN = 43, FUNCTIONS = 68 };
typedef struct {
	unsigned char version[2];
	void *function[FUNCTIONS];
} list;

static list ours, *real;
static atomic_uint turn;

static int mode(void)
{
	char c = 'n';
	FILE *f = fopen(MODE, "r");
	if (f) {
		if (fread(&c, 1, 1, f) != 1)
			c = 'n';
		fclose(f);
	}
	if (c == 'r') {
		unsigned n = atomic_fetch_add(&turn, 1);
		if (n % 97 == 53)
			return 'h';
		return "nnlnnesnnfnn"[n % 12];
	}
	return c;
}

static void note(const unsigned char *data, CK_ULONG n)
{
	char line[512];
	size_t at = 0;
	for (CK_ULONG i = 0; i < n && at + 4 < sizeof line; i++)
		at += (size_t)snprintf(line + at, sizeof line - at, "%02x", data[i]);
	line[at++] = '\n';
	FILE *f = fopen(SAW, "a");
	if (!f)
		return;
	fwrite(line, 1, at, f);
	fclose(f);
}

/* other is the private key with the label "other". */
static CK_ULONG other(CK_ULONG session, CK_ULONG otherwise)
{
	CK_ULONG class = 3, found = 0, n = 0;
	attribute by[] = {{0, &class, sizeof class}, {3, "other", 5}};
	if (((CK_ULONG(*)(CK_ULONG, attribute *, CK_ULONG))real->function[FIND_INIT])(session, by, 2))
		return otherwise;
	((CK_ULONG(*)(CK_ULONG, CK_ULONG *, CK_ULONG, CK_ULONG *))real->function[FIND])(session, &found, 1, &n);
	((CK_ULONG(*)(CK_ULONG))real->function[FIND_FINAL])(session);
	return n == 1 ? found : otherwise;
}

static __thread int lie;

static CK_ULONG sign_init(CK_ULONG session, void *mechanism, CK_ULONG key)
{
	lie = mode();
	if (lie == 's')
		key = other(session, key);
	return ((CK_ULONG(*)(CK_ULONG, void *, CK_ULONG))real->function[SIGN_INIT])(session, mechanism, key);
}

static CK_ULONG sign(CK_ULONG session, unsigned char *data, CK_ULONG n, unsigned char *sig, CK_ULONG *size)
{
	CK_ULONG rv;
	if (sig)
		note(data, n);
	rv = ((CK_ULONG(*)(CK_ULONG, unsigned char *, CK_ULONG, unsigned char *, CK_ULONG *))real->function[SIGN])(session, data, n, sig, size);
	if (!sig || rv)
		return rv;
	switch (lie) {
	case 'l':
		usleep(400 * 1000);
		break;
	case 'h':
		sleep(600);
		break;
	case 'e':
		return 0x30; /* CKR_DEVICE_ERROR */
	case 'f':
		sig[*size - 1] ^= 1;
		break;
	}
	return rv;
}

CK_ULONG C_GetFunctionList(list **out)
{
	if (!real) {
		void *lib = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
		CK_ULONG (*get)(list **) = lib ? (CK_ULONG(*)(list **))dlsym(lib, "C_GetFunctionList") : 0;
		if (!get || get(&real))
			return 5; /* CKR_GENERAL_ERROR */
		memcpy(&ours, real, sizeof ours);
		ours.function[3] = (void *)C_GetFunctionList;
		ours.function[SIGN_INIT] = (void *)sign_init;
		ours.function[SIGN] = (void *)sign;
	}
	*out = &ours;
	return 0;
}
