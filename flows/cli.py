import sys
from tasks.project import Project
from tasks.failures import reported
def main():
    def work():
        from flows.generate import generate
        r = generate(Project.find(), sys.argv[1]); print(r.json())
    return reported(work)
if __name__ == "__main__": sys.exit(main())
