/* A PKCS#11 library whose token has a keypad of its own: it says so in its
 * flags, and takes the PIN there. Whoever sends a PIN is refused.
 *
 * cc -shared -fPIC -DREAL='"/usr/lib/softhsm/libsofthsm2.so"' -DPIN='"123456"' -o keypad.so keypad.c -ldl
 */
#include <dlfcn.h>
#include <string.h>

typedef unsigned long CK_ULONG;
enum { TOKEN_INFO = 6, LOGIN = 18, FUNCTIONS = 68 };
typedef struct {
	unsigned char version[2];
	void *function[FUNCTIONS];
} list;

static list ours, *real;

static CK_ULONG token_info(CK_ULONG slot, unsigned char *info)
{
	CK_ULONG flags, rv = ((CK_ULONG(*)(CK_ULONG, unsigned char *))real->function[TOKEN_INFO])(slot, info);
	/* label 32, manufacturer 32, model 16, serial number 16, then the flags */
	memcpy(&flags, info + 96, sizeof flags);
	flags |= 0x100; /* CKF_PROTECTED_AUTHENTICATION_PATH */
	memcpy(info + 96, &flags, sizeof flags);
	return rv;
}

static CK_ULONG login(CK_ULONG session, CK_ULONG user, unsigned char *pin, CK_ULONG n)
{
	if (pin || n)
		return 0xA0; /* CKR_PIN_INCORRECT */
	return ((CK_ULONG(*)(CK_ULONG, CK_ULONG, unsigned char *, CK_ULONG))real->function[LOGIN])(session, user, (unsigned char *)PIN, sizeof PIN - 1);
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
		ours.function[TOKEN_INFO] = (void *)token_info;
		ours.function[LOGIN] = (void *)login;
	}
	*out = &ours;
	return 0;
}
